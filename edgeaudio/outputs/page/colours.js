"use strict";
// "magma" of matplotlib (CC0), a perceptually uniform scale: 64 steps as rrggbb, the rest between them.
const MAGMA = (() => {
  const steps = (
    "00000402010903031206051a0a08220e0b2b130d34180f3d1d114722115029115a2f116336106b3d0f71440f764a1079" +
    "52137c59157e5f187f651a806b1d81721f817822817e24828426818b2981912b81982d809e2f7fa5317eab337cb2357b" +
    "ba3878c03a76c73d73cd4071d3436ed9466bdf4a68e44f64e95462ed5a5ff1605df4675cf66e5cf8765cfa7d5efb8560" +
    "fc8e64fd9668fe9d6cfea571feac76feb47bfebb81fec287feca8dfed194fed89afde0a1fde7a9fceeb0fcf6b8fcfdbf"
  ).match(/../g).map((digits) => parseInt(digits, 16));
  const table = new Uint8ClampedArray(256 * 4);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * 63, low = Math.min(62, Math.floor(at)), share = at - low;
    for (let c = 0; c < 3; c++) {
      table[4 * i + c] = steps[3 * low + c] * (1 - share) + steps[3 * low + 3 + c] * share;
    }
    table[4 * i + 3] = 255;
  }
  return table;
})();

// Ten hues that stay apart on light and on dark, in the order of the labels.
const HUES = ["#4c7bf0", "#e8a20c", "#f0604f", "#35b5a2", "#43a951", "#ee6fa5", "#a263f0", "#2fa4d8", "#a9744f", "#8c929c"];
