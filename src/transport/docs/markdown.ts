/** The little Markdown that the proto files' comments and the document's description use, as HTML. */

export const escapeHtml = (text: string): string => text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);

/** `code` and *emphasis* inside a line. */
export const inline = (text: string): string =>
  escapeHtml(text)
    .replace(/`([^`]+)`/g, "<code>$1</code>")
    .replace(/(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])/g, "<em>$1</em>");

/** Paragraphs, headings of the second level and tables. */
export function markdown(text: string): string {
  return text
    .trim()
    .split(/\n{2,}/)
    .map((block) => {
      if (block.startsWith("## ")) return `<h2 id="${slug(block.slice(3))}">${inline(block.slice(3))}</h2>`;
      if (block.startsWith("|")) return table(block.split("\n"));
      return `<p>${inline(block)}</p>`;
    })
    .join("\n");
}

export const slug = (text: string): string => text.toLowerCase().replace(/[^a-z0-9]+/g, "-");

function table(lines: readonly string[]): string {
  const [head, , ...rows] = lines.map((line) =>
    line
      .slice(1, -1)
      .split("|")
      // Long names may go on in the next line, so that the table has room for what they mean.
      .map((cell) => inline(cell.trim()).replace(/(?<=[A-Z])_(?=[A-Z])/g, "_<wbr>")),
  );
  const row = (cells: readonly string[], tag: string) =>
    `<tr>${cells.map((cell) => `<${tag}>${cell}</${tag}>`).join("")}</tr>`;
  // Nothing in it takes the focus, so that it scrolls by keyboard only when it does itself.
  return `<div class="wide" tabindex="0"><table><thead>${row(head!, "th")}</thead><tbody>${rows.map((each) => row(each, "td")).join("")}</tbody></table></div>`;
}
