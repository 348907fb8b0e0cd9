declare module "parse-prometheus-text-format" {
  interface Family {
    readonly name: string;
    readonly help: string;
    readonly type: string;
  }
  export default function parsePrometheusTextFormat(text: string): Family[];
}
