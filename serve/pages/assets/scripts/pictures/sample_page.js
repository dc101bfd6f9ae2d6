// --- a page to try -----------------------------------------------------------------------------------------------------------
/** A report of one page, with a heading, text, a table and a chart, drawn here so that nothing has to be found first. A data: URL. */
function samplePage() {
  const canvas = h("canvas", { width: 1000, height: 1300 }), pen = canvas.getContext("2d");
  const write = (text, x, y, font, colour = "#1d1f1e", align = "left") => { pen.font = font; pen.fillStyle = colour; pen.textAlign = align; pen.fillText(text, x, y); };
  const fill = (x, y, wide, tall, colour) => { pen.fillStyle = colour; pen.fillRect(x, y, wide, tall); };
  const sans = '"DejaVu Sans", "Noto Sans", Arial, sans-serif', serif = '"DejaVu Serif", "Noto Serif", Georgia, serif';
  fill(0, 0, 1000, 1300, "#ffffff");
  fill(0, 0, 1000, 14, "#0b6a5d");
  write("Bicycle sales, 2025", 80, 120, `700 46px ${sans}`);
  write("Report to the board · page 4", 80, 160, `22px ${sans}`, "#5d615e");
  const text = "The north had its best year: a dry spring brought riders back, and the new shop in Harbour Street alone sold 412 bicycles. "
    + "Sales in the south fell after the bridge was closed in March. Repairs grew everywhere and now bring in a third of all income.";
  let line = "", y = 225;
  pen.font = `24px ${serif}`;
  for (const word of text.split(" ")) {
    if (pen.measureText(`${line} ${word}`).width > 840) { write(line.trim(), 80, y, `24px ${serif}`); line = ""; y += 36; }
    line += ` ${word}`;
  }
  write(line.trim(), 80, y, `24px ${serif}`);
  const rows = [["Region", "Bicycles", "Repairs"], ["North", "1,284", "3,020"], ["East", "760", "1,415"], ["South", "391", "1,102"], ["West", "845", "1,938"]];
  rows.forEach((row, at) => {
    const top = 440 + at * 52;
    if (at % 2) fill(80, top, 840, 52, "#f2f0ea");
    row.forEach((cell, column) => write(cell, [100, 620, 900][column], top + 35, `${at ? 400 : 700} 24px ${sans}`, "#1d1f1e", column ? "right" : "left"));
  });
  fill(80, 492, 840, 2, "#1d1f1e");
  write("Bicycles sold by quarter", 80, 790, `700 28px ${sans}`);
  [["Q1", 520], ["Q2", 1105], ["Q3", 980], ["Q4", 675]].forEach(([name, count], at) => {
    const tall = count / 3.4, left = 130 + at * 205;
    fill(left, 1180 - tall, 120, tall, at === 1 ? "#c4682b" : "#1a9c88");
    write(count.toLocaleString("en"), left + 60, 1168 - tall, `600 22px ${sans}`, "#1d1f1e", "center");
    write(name, left + 60, 1214, `22px ${sans}`, "#5d615e", "center");
  });
  fill(80, 1180, 840, 2, "#8b8f8a");
  return canvas.toDataURL("image/png");
}
