// A threshold on an anomaly score: which share of either kind lies above it, and the curve that all thresholds make.
"use strict";

// The share of `scores`, which rise, that lies above t.
vaePlay.above = (scores, t) => {
  let low = 0, high = scores.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (scores[middle] > t) high = middle; else low = middle + 1;
  }
  return (scores.length - low) / scores.length;
};
// The probability that one of the second kind scores higher than one of the first; a tie counts half.
vaePlay.auroc = (normal, anomalous) => {
  const just = (t) => (vaePlay.above(normal, t) + vaePlay.above(normal, t - 1e-9)) / 2;
  return anomalous.reduce((sum, t) => sum + 1 - just(t), 0) / anomalous.length;
};

vaePlay.kinds.threshold = ({ familiar, kinds }) => {
  const { svg, html, slider, select, readout, announcer, predict, panel, linear, axis, path, clamp, grip, fixed, above, auroc } = vaePlay;
  const sorted = (values) => [...values].sort((a, b) => a - b);
  const normal = sorted(familiar), others = kinds.map(({ scores }) => sorted(scores));
  const every = sorted([...normal, ...others.flat()]), at = (share) => every[Math.min(every.length - 1, Math.floor(share * every.length))];
  const ends = [Math.floor(at(0.002)), Math.ceil(at(0.99))];
  const tenth = normal[Math.ceil(0.9 * normal.length) - 1]; // a tenth of the normal items lies above

  const caught = above(others[0], tenth);
  const asked = predict(`Put the threshold where a tenth of the familiar test images lie above it. What share of ${kinds[0].name} lies above it, too?`,
    ["nearly all", "about half", "a tenth or less"], caught > 0.75 ? 0 : caught > 0.25 ? 1 : 2,
    `There it is ${fixed(100 * caught, 0)} %: a score is a verdict on how hard an image is to code, not on whether it belongs.`);

  const kind = select("Anomalies", kinds.map(({ name }) => name), () => update());
  const range = { min: ends[0], max: ends[1], step: ((ends[1] - ends[0]) / 400).toFixed(3), value: tenth };
  const threshold = slider("t", range, (x) => fixed(x, 1), () => { asked.seen(); update(); });
  const numbers = { falsely: readout("familiar images above t"), truly: readout("anomalies above t"), area: readout("AUROC") };
  const status = announcer();
  const shares = () => [normal, others[kind.value]].map((scores) => above(scores, threshold.value));

  let back; // pixels -> score
  const handle = grip((x) => { threshold.value = clamp(back(x), ...ends); asked.seen(); update(); });
  const histogram = (scores, bins) => {
    const counts = new Float64Array(bins);
    for (const score of scores) counts[clamp(Math.floor(((score - ends[0]) / (ends[1] - ends[0])) * bins), 0, bins - 1)] += 1;
    return counts.map((count) => count / scores.length);
  };
  const scores = panel({ class: "vae-play-settle", role: "img", "aria-label":
    "Histograms of the score of familiar images and of anomalies, with a line at the threshold." },
  (width, height) => {
    const bins = 48, floor = height - 24, edge = [12, width - 12], x = linear(ends, edge);
    const counts = [normal, others[kind.value]].map((values) => histogram(values, bins));
    const y = linear([0, Math.max(...counts.flatMap((one) => [...one]))], [floor, 40]), line = x(threshold.value);
    back = linear(edge, ends);
    const outline = (values) => path([...values].flatMap((value, i) => [0, 1].map((side) => [edge[0] + ((i + side) / bins) * (edge[1] - edge[0]), y(value)])));
    const entry = (i, text) => [
      svg("line", { class: `line ${i ? "second" : "first"}`, x1: 14, x2: 40, y1: 10 + 18 * i, y2: 10 + 18 * i }),
      svg("text", { class: "halo", x: 46, y: 14 + 18 * i }, text)];
    handle.move(line, floor - 40);
    return [
      counts.map((values, i) => svg("path", { class: `line ${i ? "second" : "first"}`, d: outline(values) })),
      axis(x, floor, ends, "", width < 400 ? 4 : 8),
      svg("line", { class: "exact", x1: line, x2: line, y1: 36, y2: floor }),
      svg("circle", { class: "sample", cx: line, cy: floor - 40, r: 8 }),
      svg("text", { class: "halo", x: line + 5, y: 46 }, "t"),
      entry(0, "familiar images"), entry(1, kinds[kind.value].name),
    ];
  });
  const curve = panel({ class: "vae-play-curve", role: "img", "aria-label":
    "For all thresholds, the share of anomalies above it against the share of familiar images above it, with a point at the chosen one." },
  (width, height) => {
    const x = linear([0, 1], [34, width - 10]), y = linear([0, 1], [height - 34, 10]), [falsely, truly] = shares();
    const values = [Infinity, ...[...every].reverse()];
    const points = values.map((t) => [x(above(normal, t)), y(above(others[kind.value], t))]);
    return [
      axis(x, height - 34, [0, 1], "", 2),
      svg("line", { class: "axis", x1: x(0), x2: x(0), y1: y(0), y2: y(1) }),
      [0, 0.5, 1].map((value) => svg("text", { x: 28, y: y(value) + 4, "text-anchor": "end" }, value)),
      svg("line", { class: "line earlier", x1: x(0), x2: x(1), y1: y(0), y2: y(1) }),
      svg("path", { class: "line second solid", d: path(points) }),
      svg("circle", { class: "sample", cx: x(falsely), cy: y(truly), r: 7 }),
      svg("text", { x: (x(0) + x(1)) / 2, y: height - 4, "text-anchor": "middle" }, "familiar images above t"),
      svg("text", { class: "halo", x: x(0) + 6, y: 20 }, "anomalies above t"),
    ];
  });

  function update() {
    const [falsely, truly] = shares();
    numbers.falsely.text = fixed(falsely, 3);
    numbers.truly.text = fixed(truly, 3);
    numbers.area.text = fixed(auroc(normal, others[kind.value]), 3);
    [scores, curve].forEach((drawing) => drawing.repaint());
    status.say(`Above ${fixed(threshold.value, 1)}: ${fixed(100 * falsely, 0)} % of the familiar images, ${fixed(100 * truly, 0)} % of ${kinds[kind.value].name}`);
  }
  update();

  return [
    asked.element,
    html("p", {}, "The score is −log p(x) in nats, by the first model: what lies above the threshold t is called an anomaly. Drag the line, or use the slider. The point on the right moves along the curve that all thresholds make; on the dotted line one would be guessing."),
    html("div", { class: "vae-play-buttons" }, kind.element),
    threshold.element,
    html("div", { class: "vae-play-scores" }, html("div", { class: "vae-play-over" }, scores.element, handle.element), curve.element),
    html("dl", {}, Object.values(numbers).map((number) => number.element)),
    status.element,
  ];
};
