"""A script that says how a text is laid out."""

# The lines of an element's text as they are laid out.
LINES = """element => {
  const [lines, range] = [[], document.createRange()];
  const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  let top = null;
  for (let text; (text = texts.nextNode());) {
    for (let i = 0; i < text.length; i++) {
      range.setStart(text, i);
      range.setEnd(text, i + 1);
      const [box] = range.getClientRects();
      if (box && Math.abs(box.top - top) > 2) lines.push("");
      if (box) [top, lines[lines.length - 1]] = [box.top, lines.at(-1) + text.data[i]];
    }
  }
  return lines.map((line) => line.trim());
}"""
