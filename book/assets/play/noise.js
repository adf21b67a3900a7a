// Noise around one code, decoded by two models: one was trained with ε, the other with z = μ.
"use strict";

vaePlay.kinds.noise = ({ shape, models, eps, pictures, labels }) => {
  const { html, slider, button, select, choice, readout, announcer, predict, picture, draw, unpack, fixed, brief, normal,
    decoder } = vaePlay;
  const size = shape.reduce((a, b) => a * b), latents = models[0].mu[0].length, count = eps.length;
  const ready = models.map(({ name, mu, spread, decoder: layers }) => ({ name, mu, spread, decode: decoder(layers) }));
  const levels = unpack(pictures);
  let noise = eps;

  const scales = { absolute: () => 1, relative: (model) => model.spread };
  // How far the pictures of a code with noise are from that of the code: the root mean square over pixels and draws.
  function decoded(model, i, width) {
    const middle = model.decode(model.mu[i]);
    const draws = noise.map((one) => model.decode(model.mu[i].map((centre, d) => centre + width * one[d])));
    const squares = draws.flatMap((one) => [...one].map((level, j) => (level - middle[j]) ** 2));
    return { middle, draws, change: Math.sqrt(squares.reduce((a, b) => a + b, 0) / squares.length) };
  }
  const all = (model) => labels.reduce((sum, _, i) => sum + decoded(model, i, 0.25).change, 0) / labels.length;
  const [first, second] = ready.map(all);
  const asked = predict("Add noise of size 0.25 to a code, the same noise for both models. Whose pictures change more?",
    ready.map(({ name }) => `those of the model trained ${name}`).concat("both alike"),
    Math.abs(first - second) < 0.2 * Math.max(first, second) ? 2 : first > second ? 0 : 1,
    `Over all items here grey levels change by ${brief(first)} (trained ${ready[0].name}) and ${brief(second)} (trained ${ready[1].name}). Now measure the noise by the spread of each model's codes, and compare again.`);

  const names = labels.map((label) => `digit ${label}`);
  const item = select("Test picture", names, () => update());
  const width = slider("size", { min: 0, max: 1.5, step: 0.05, value: 0.25 }, (x) => fixed(x, 2), () => { asked.seen(); update(); });
  const unit = choice("Noise is", { absolute: "size · ε for both", relative: "size · ε times the spread of the model's codes" }, () => { asked.seen(); update(); });
  const framed = (canvas, caption) => html("span", { class: "vae-play-frame" }, canvas, html("small", {}, caption));
  const original = picture(new Float32Array(size), shape, "");
  const strips = ready.map(({ name, spread }) => {
    const middle = picture(new Float32Array(size), shape, `Decoded from μ, trained ${name}`);
    const draws = Array.from({ length: count }, () => picture(new Float32Array(size), shape, `Decoded with noise, trained ${name}`));
    return { middle, draws, changed: readout(`grey levels change, trained ${name}`),
      element: html("div", {}, html("p", {}, html("strong", {}, `Trained ${name}`), ` (spread of its codes ${fixed(spread, 2)})`),
        html("div", { class: "vae-play-strip" }, framed(middle, "μ"), draws.map((canvas) => framed(canvas, "μ + noise")))) };
  });
  const status = announcer();

  function update() {
    const i = item.value;
    draw(original, Float32Array.from(levels.subarray(i * size, (i + 1) * size), (level) => level / 255));
    original.setAttribute("aria-label", `The test picture, ${names[i]}`);
    const changes = ready.map((model, k) => {
      const { middle, draws, change } = decoded(model, i, width.value * scales[unit.value](model));
      draw(strips[k].middle, middle);
      draws.forEach((one, n) => draw(strips[k].draws[n], one));
      strips[k].changed.text = fixed(change, 3);
      return change;
    });
    status.say(changes.map((change, k) => `Trained ${ready[k].name}: grey levels change by ${fixed(change, 3)}`).join(". "));
  }
  update();

  return [
    asked.element,
    html("p", {}, "One code μ and the same draws of ε for both models. With size 0 every picture is the one of μ."),
    html("div", { class: "vae-play-buttons" }, item.element,
      button("Draw ε again", () => { noise = eps.map(() => Array.from({ length: latents }, normal)); update(); })),
    unit.element, width.element,
    html("div", { class: "vae-play-strip vae-play-single" }, framed(original, "original")),
    strips.map(({ element }) => element),
    html("dl", {}, strips.map(({ changed }) => changed.element)),
    status.element,
  ];
};
