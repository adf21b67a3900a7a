// The latent explorer: a trained decoder with two latents, which draws the mean of p(x|z) for the z under the
// pointer, and for samples z = μ + τ·σ·ε of one test item: of its q(z|x), for τ = 1.
"use strict";

vaePlay.kinds.latents = ({ shape, decoder, looks, codes, items }) => {
  const { html, svg, slider, button, select, announcer, predict, panel, linear, clamp, picture, draw, grip, unpack, fixed,
    brief, normal } = vaePlay;
  const decode = vaePlay.decoder(decoder), size = shape.reduce((a, b) => a * b), kept = 23;
  const originals = unpack(items.pictures);
  const original = (i) => Float32Array.from(originals.subarray(i * size, (i + 1) * size), (level) => level / 255);
  const reach = Math.max(3, ...codes.mu.flat().map(Math.abs), ...items.mu.flat().map(Math.abs)) + 0.2;
  let samples = []; // {eps, z, canvas, element} of the chosen item
  let hover; // z under the mouse, until it leaves the map

  // How far a picture is from that of another item, and from its own one standard deviation away: what the question
  // is about.
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const apart = (a, b) => Math.sqrt(mean([...a].map((value, i) => (value - b[i]) ** 2)));
  const first = [...new Set(items.labels)].map((label) => items.labels.indexOf(label));
  const decoded = first.map((i) => decode(items.mu[i]));
  const inside = mean(first.flatMap((i, n) => [[1, 0], [-1, 0], [0, 1], [0, -1]].map((eps) =>
    apart(decoded[n], decode(items.mu[i].map((centre, d) => centre + items.sigma[i][d] * eps[d]))))));
  const between = mean(decoded.map((one, n) => apart(one, decoded[(n + 1) % decoded.length])));
  const asked = predict("Draw ten samples z = μ + σ·ε of one test picture. What will the decoder make of them?",
    ["ten pictures that look alike", "ten clearly different pictures"], inside < between / 2 ? 0 : 1,
    `One standard deviation from μ, grey levels change by ${brief(inside)}; between two items they differ by ${brief(between)}. Turn up τ to leave the region of one item.`);

  const names = items.labels.map((label, i) => `label ${label}, no. ${items.labels.slice(0, i + 1).filter((l) => l === label).length}`);
  const item = select("Test picture", names, () => choose());
  const range = { min: -reach.toFixed(2), max: reach.toFixed(2), step: 0.01, value: 0 };
  const axes = ["z₁", "z₂"].map((name) => slider(name, range, (x) => fixed(x, 2), () => update()));
  const tau = slider("τ", { min: 0, max: 12, step: 0.25, value: 1 }, (x) => fixed(x, 2), () => scatter());
  const place = () => axes.map((control) => control.value);
  const zoom = html("input", { type: "checkbox", onchange: () => update() });
  // What the map shows: all codes, or four standard deviations around μ. A trained posterior is small.
  const view = () => zoom.checked
    ? { centre: items.mu[item.value], half: 4 * Math.max(...items.sigma[item.value]) }
    : { centre: [0, 0], half: reach };
  const spans = () => view().centre.map((middle) => [middle - view().half, middle + view().half]);
  const shown = picture(new Float32Array(size), shape, "The decoder's mean at z");
  const under = html("small", {});
  const strip = html("div", { class: "vae-play-strip" });
  const status = announcer();
  const framed = (canvas, caption) => html("span", { class: "vae-play-frame" }, canvas, html("small", {}, caption));
  const told = (z) => `(${z.map((x) => fixed(x, 2)).join(", ")})`;

  // The map. Its codes are made once for each width and view, and look as those of the chapter's own map.
  let cloud, cloudKey;
  const map = panel({ class: "vae-play-map", tabindex: 0, role: "application", "aria-label":
    "Map of the latent plane. Arrow keys move z, with Shift in larger steps; the sliders do the same.",
  onkeydown: (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const [x, y] = place(), far = (event.shiftKey ? 0.5 : 0.1) / (zoom.checked ? 10 : 1);
    go([x + far * move[0], y + far * move[1]]);
  },
  }, (width, height) => {
    const [across, up] = spans(), x = linear(across, [0, width]), y = linear(up, [height, 0]), at = (z) => ({ cx: x(z[0]), cy: y(z[1]) });
    const key = [width, across, up].join();
    if (cloudKey !== key) {
      cloudKey = key;
      cloud = svg("g", { class: "codes", "aria-hidden": "true" }, codes.mu.map((mu, i) => svg("text",
        { style: `fill: ${looks[codes.labels[i]]}`, x: x(mu[0]), y: y(mu[1]) + 4, "text-anchor": "middle" }, codes.labels[i])));
    }
    const mu = items.mu[item.value], sigma = items.sigma[item.value], [x0, y0] = [x(0), y(0)];
    const scale = width / (2 * view().half), ring = (times) => svg("ellipse", { class: times > 1 ? "posterior outer" : "posterior",
      ...at(mu), rx: times * sigma[0] * scale, ry: times * sigma[1] * scale });
    const mark = (times) => svg("text", { class: "halo", "text-anchor": "middle", x: x(mu[0]), y: y(mu[1] + times * sigma[1]) - 4 },
      `${times}σ`);
    handle.move(x(place()[0]), y(place()[1]));
    return [
      svg("line", { class: "axis", x1: 0, x2: width, y1: y0, y2: y0 }),
      svg("line", { class: "axis", x1: x0, x2: x0, y1: 0, y2: height }),
      svg("text", { x: width - 16, y: clamp(y0, 16, height) - 5 }, "z₁"),
      svg("text", { x: clamp(x0, 0, width - 24) + 5, y: 14 }, "z₂"),
      cloud, ring(1), ring(2), mark(2),
      sigma[1] * scale > 22 ? mark(1) : [], // else there is no room for it between the two
      samples.map(({ z }) => svg("circle", { class: "draw", ...at(z), r: 4 })),
      svg("circle", { class: "sample hollow", ...at(place()), r: 8 }),
      svg("circle", { class: "sample", ...at(place()), r: 2 }),
      hover ? svg("circle", { class: "mark hover", ...at(hover), r: 6 }) : [],
    ];
  });
  // Over the map: a mouse shows what is under it, a click or a tap puts z there, and the ring can be dragged.
  function underneath(x, y) {
    const { clientWidth: width, clientHeight: height } = map.element.parentElement, [across, up] = spans();
    return [linear([0, width], across)(x), linear([height, 0], up)(y)].map((value) => clamp(value, -reach, reach));
  }
  const handle = grip((x, y) => go(underneath(x, y)));
  const locate = (event) => {
    const box = map.element.getBoundingClientRect();
    return underneath(event.clientX - box.left, event.clientY - box.top);
  };
  const over = html("div", { class: "vae-play-over",
    onclick: (event) => go(locate(event)),
    onpointermove: (event) => {
      if (event.pointerType !== "mouse") return;
      if (event.buttons) { go(locate(event)); return; }
      hover = locate(event);
      update();
    },
    onpointerleave: () => { if (hover) { hover = undefined; update(); } },
  }, map.element, handle.element);

  function go(z) {
    axes.forEach((control, i) => { control.value = clamp(z[i], -reach, reach); });
    hover = undefined;
    update();
  }
  function update() {
    const z = hover ?? place();
    draw(shown, decode(z));
    under.textContent = `z = ${told(z)}`;
    map.repaint();
    if (!hover) status.say(`z = ${told(z)}`);
  }
  function choose(i = item.value) {
    item.value = i;
    samples = [];
    const mu = items.mu[i];
    strip.replaceChildren(
      framed(picture(original(i), shape, `The test picture, ${names[i]}`), "original"),
      framed(picture(decode(mu), shape, "Decoded from z = μ"), "z = μ"));
    go(mu);
  }
  const beside = (by) => choose((item.value + by + names.length) % names.length);
  function sample(count) {
    for (let i = 0; i < count; i++) {
      const canvas = picture(new Float32Array(size), shape, ""), element = framed(canvas, "sample");
      strip.append(element);
      samples.push({ eps: [normal(), normal()], canvas, element });
    }
    samples.splice(0, samples.length - kept).forEach(({ element }) => element.remove());
    scatter();
    if (samples.length >= 10) asked.seen();
  }
  // The samples, for the τ of now: each keeps its ε.
  function scatter() {
    const mu = items.mu[item.value], sigma = items.sigma[item.value];
    for (const one of samples) {
      one.z = mu.map((centre, d) => centre + tau.value * sigma[d] * one.eps[d]);
      draw(one.canvas, decode(one.z));
      one.canvas.setAttribute("aria-label", `Decoded from a sample, z = ${told(one.z)}`);
    }
    if (samples.length) go(samples.at(-1).z);
  }
  choose(0);

  return [
    asked.element,
    html("p", {}, "Point at the map: the decoder draws the mean of p(x|z) for the z there. A click or a tap keeps it; the ring can be dragged, and arrow keys move it. Then choose a test picture and draw samples z = μ + τ·σ·ε: with τ = 1, of the encoder's q(z|x); otherwise, of a wider or narrower region, since τ is a factor on σ. The ellipses are one (solid) and two (dashed) standard deviations around μ."),
    html("div", { class: "vae-play-explorer" }, over,
      html("div", {}, html("span", { class: "vae-play-frame vae-play-large" }, shown, html("small", {}, "decoder mean at"), under),
        axes.map((control) => control.element), tau.element)),
    html("div", { class: "vae-play-buttons" }, item.element,
      button("Previous", () => beside(-1)), button("Next", () => beside(1)),
      html("label", {}, zoom, "zoom in on it"),
      button("Draw a sample", () => sample(1)), button("Draw ten", () => sample(10))),
    strip, status.element,
  ];
};
