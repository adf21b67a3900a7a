// A relaxed bit, hot or cold: its density, and the bias and noise of the gradient that it gives.
"use strict";

// The density of sigmoid((logit + L) / t), where L has the logistic distribution.
vaePlay.relaxedBit = (logit, t) => (x) => {
  const up = Math.exp(logit) * x ** -t, down = (1 - x) ** -t;
  return (t * up * down) / (x * (1 - x) * (up + down) ** 2);
};

vaePlay.kinds.temperature = ({ logit, temperatures, exact, bias, variance }) => {
  const { svg, html, slider, readout, announcer, predict, panel, linear, axis, curve, path, clamp, fixed, brief, relaxedBit } = vaePlay;
  const last = temperatures.length - 1, size = Math.abs(exact);
  const asked = predict("Make the temperature τ lower and lower. What happens to the noise of the gradient?",
    ["it shrinks", "it stays", "it grows"], variance[0] > 1.2 * variance[last] ? 2 : variance[0] < variance[last] / 1.2 ? 0 : 1,
    `From the hottest to the coldest here the variance changes from ${brief(variance[last])} to ${brief(variance[0])}. A cold relaxed bit is nearly a bit: flat almost everywhere, and steep where it jumps.`);
  const at = slider("τ", { min: 0, max: last, step: 1, value: temperatures.findIndex((t) => t >= 0.5) },
    (i) => brief(temperatures[i]), () => { if (at.value < 3) asked.seen(); update(); });
  const samples = slider("n", { min: 0, max: 3, step: 1, value: 0 }, (i) => String(10 ** i), () => update());
  const numbers = { bias: readout("bias"), deviation: readout("noise of a mean of n"), error: readout("root mean squared error") };
  const status = announcer();
  const chosen = () => {
    const i = at.value, noise = Math.sqrt(variance[i] / 10 ** samples.value) / size, shift = bias[i] / size;
    return { bias: shift, deviation: noise, error: Math.hypot(shift, noise) };
  };

  const density = panel({ class: "vae-play-cost", role: "img", "aria-label":
    "The density of the relaxed bit between 0 and 1: near the two ends when it is cold, in the middle when it is hot." },
  (width, height) => {
    const x = linear([0, 1], [12, width - 12]), floor = height - 24, y = linear([0, 4], [floor, 8]);
    const f = relaxedBit(logit, temperatures[at.value]);
    return [
      svg("path", { class: "line first", d: curve(x, y, [0.002, 0.998], f, 300) }),  // it leaves at the top
      axis(x, floor, [0, 1], "relaxed bit", 5),
    ];
  });
  const errors = panel({ class: "vae-play-settle", role: "img", "aria-label":
    "Size of the bias, and noise of a mean of n samples, relative to the gradient, against the temperature, both axes logarithmic." },
  (width, height) => {
    const lows = [0.003, 30].map(Math.log10), floor = height - 34;
    const span = [temperatures[0], temperatures[last]].map(Math.log10), x = linear(span, [48, width - 12]), y = linear(lows, [floor, 30]);
    const inside = (value) => y(clamp(Math.log10(value / size), ...lows)), across = (t) => x(Math.log10(t));
    const line = (values) => path(values.map((value, i) => [across(temperatures[i]), inside(value)]));
    const noise = variance.map((value) => Math.sqrt(value / 10 ** samples.value)), now = across(temperatures[at.value]);
    const entry = (i, text) => [
      svg("line", { class: `line ${i ? "second" : "first"}`, x1: 60 + 90 * i, x2: 86 + 90 * i, y1: 10, y2: 10 }),
      svg("text", { class: "halo", x: 92 + 90 * i, y: 14 }, text)];
    return [
      svg("line", { class: "axis", x1: 48, x2: width - 12, y1: floor, y2: floor }),
      svg("line", { class: "axis", x1: 48, x2: 48, y1: 30, y2: floor }),
      [0.01, 0.1, 1, 10].map((value) => svg("text", { x: 42, y: y(Math.log10(value)) + 4, "text-anchor": "end" }, brief(value))),
      temperatures.map((t) => svg("line", { class: "axis", x1: across(t), x2: across(t), y1: floor, y2: floor + 4 })),
      [0, Math.floor(last / 2), last].map((i) => svg("text", { x: across(temperatures[i]), y: floor + 16, "text-anchor": "middle" }, brief(temperatures[i]))),
      svg("text", { x: (48 + width) / 2, y: height - 3, "text-anchor": "middle" }, "temperature (logarithmic)"),
      svg("line", { class: "line earlier", x1: 48, x2: width - 12, y1: y(0), y2: y(0) }),
      svg("line", { class: "exact", x1: now, x2: now, y1: 30, y2: floor }),
      svg("path", { class: "line first", d: line(bias.map(Math.abs)) }),
      svg("path", { class: "line second", d: line(noise) }),
      svg("circle", { class: "point vae-play-0", cx: now, cy: inside(Math.abs(bias[at.value])), r: 6 }),
      svg("circle", { class: "point vae-play-1", cx: now, cy: inside(noise[at.value]), r: 6 }),
      entry(0, "|bias|"), entry(1, "noise of a mean of n"),
    ];
  });

  function update() {
    const found = chosen();
    for (const [name, number] of Object.entries(numbers)) number.text = fixed(found[name], 3);
    [density, errors].forEach((drawing) => drawing.repaint());
    status.say(`Temperature ${brief(temperatures[at.value])}: bias ${fixed(found.bias, 3)} and noise ${fixed(found.deviation, 3)} times the gradient`);
  }
  update();

  return [
    asked.element,
    html("p", {}, `τ is the temperature, n the number of samples. Above, the density of the relaxed bit, up to 4; below, what its gradient is off by, in units of the exact gradient (${fixed(exact, 3)}): always (bias) and by chance (noise). So are the numbers at the end. More samples lower the noise only.`),
    at.element, samples.element, density.element, errors.element,
    html("dl", {}, Object.values(numbers).map((number) => number.element)),
    status.element,
  ];
};
