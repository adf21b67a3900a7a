// Figures to play with: what their scripts share. The page holds the data of each as JSON; here they become a
// widget inside the figure, in the place of its static picture, which stays for paper.
"use strict";

const vaePlay = (() => {
  const kinds = {}; // name -> data => nodes of the widget; each script in this folder adds its own
  const words = {}; // what they have in common, in the language of the page

  // Nodes

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (typeof value === "function") node.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat(Infinity));
    return node;
  }
  const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  // Controls: native ones, each with a label, so that mouse, touch, keyboard and screen reader can use them.

  let ids = 0;
  const newId = () => `vae-play-${++ids}`;

  // A slider whose value is also shown, as `show` writes it.
  function slider(label, range, show, changed) {
    const input = html("input", { type: "range", id: newId(), ...range, oninput: () => { tell(); changed(); } });
    const output = html("output", { for: input.id, "aria-live": "off" });
    const tell = () => {
      output.textContent = show(+input.value);
      input.setAttribute("aria-valuetext", output.textContent);
    };
    tell();
    return {
      element: html("div", { class: "vae-play-slider" }, html("label", { for: input.id }, label), input, output),
      get value() { return +input.value; },
      set value(value) { input.value = value; tell(); }, // the browser rounds to a step, and keeps to the range
      refresh: tell,
    };
  }

  const button = (text, pressed) => html("button", { type: "button", onclick: pressed }, text);

  function select(label, options, changed) {
    const input = html("select", { id: newId(), onchange: changed },
      options.map((text, i) => html("option", { value: i }, text)));
    return {
      element: html("span", { class: "vae-play-select" }, html("label", { for: input.id }, label), input),
      get value() { return +input.value; },
      set value(value) { input.value = value; },
    };
  }

  // One of several: {name: text}.
  function choice(label, options, changed) {
    const group = newId();
    const inputs = Object.keys(options).map((name, i) =>
      html("input", { type: "radio", name: group, value: name, checked: i === 0, onchange: changed }));
    const labels = Object.values(options).map((text, i) => html("label", {}, inputs[i], text));
    return {
      element: html("fieldset", {}, html("legend", {}, label), labels),
      get value() { return inputs.find((input) => input.checked).value; },
    };
  }

  // A named number under a figure.
  function readout(label) {
    const output = html("output", { "aria-live": "off" });
    return {
      element: html("div", {}, html("dt", {}, label), html("dd", {}, output)),
      set text(text) { output.textContent = text; },
    };
  }

  // Tells a screen reader what came out, once the reader of the page has stopped moving things.
  function announcer() {
    const element = html("p", { class: "vae-play-hidden", role: "status" });
    let waiting;
    return {
      element,
      say(text) {
        clearTimeout(waiting);
        waiting = setTimeout(() => { element.textContent = text; }, 700);
      },
    };
  }

  // A question before the figure answers it. `answers` are two or three texts, `right` is the place of the true
  // one, `because` says why. Nothing waits for an answer: the verdict appears as soon as the reader has given one
  // and has seen what the question is about, which the figure tells by calling `seen`.
  function predict(question, answers, right, because) {
    const id = newId();
    let given, known = false;
    const buttons = answers.map((text, i) =>
      html("button", { type: "button", "aria-pressed": "false", onclick: () => { given = i; tell(); } }, text));
    const no = `${words.no.replace("{answer}", answers[right])} `;
    const verdict = html("p", { "aria-live": "polite" }, words.expect);
    const room = html("p", { class: "vae-play-room", "aria-hidden": "true" }, no, because);
    function tell() {
      if (given === undefined) return;
      buttons.forEach((one, i) => {
        one.setAttribute("aria-pressed", i === given);
        if (known) one.dataset.mark = i === right ? "✓" : i === given ? "✗" : "";
      });
      if (known) verdict.replaceChildren(html("strong", {}, given === right ? `${words.yes} ` : no), because);
      else verdict.textContent = words.try;
    }
    return {
      element: html("div", { class: "vae-play-predict", role: "group", "aria-labelledby": id },
        html("p", { id }, html("strong", {}, `${words.predict} `), question),
        html("div", { class: "vae-play-buttons" }, buttons),
        html("div", { class: "vae-play-verdict" }, room, verdict)),
      seen() {
        if (known) return;
        known = true;
        tell();
      },
    };
  }

  // Two buttons. The first makes one step: `advance(1)`. The other makes `pace()` steps at a time, 25 times a second,
  // until it is pressed again or `advance` returns false; for readers who want less motion, `leap` steps at once.
  function runner(advance, { name = words.step, pace = () => 1, leap = 100 } = {}) {
    let timer;
    const run = button(words.run, () => {
      if (timer) stop();
      else if (matchMedia("(prefers-reduced-motion: reduce)").matches) advance(leap);
      else {
        run.textContent = words.pause;
        timer = setInterval(() => { if (!run.isConnected || advance(pace()) === false) stop(); }, 40);
      }
    });
    run.classList.add("vae-play-run");
    function stop() {
      clearInterval(timer);
      timer = undefined;
      run.textContent = words.run;
    }
    return { buttons: [button(name, () => { stop(); advance(1); }), run], stop };
  }

  // Pictures

  // An SVG in CSS pixels. `paint(width, height)` returns its nodes, again whenever the width changes; the style
  // sheet gives the height.
  function panel(attributes, paint) {
    const element = svg("svg", attributes);
    let width = 0, height = 0; // kept, since to ask for them would lay out the whole page
    const repaint = () => {
      if (!width) return;
      // A node that is there already stays where it is: to put back hundreds of letters takes a while.
      const nodes = paint(width, height).flat(Infinity);
      [...element.children].filter((node) => !nodes.includes(node)).forEach((node) => node.remove());
      let next = element.firstChild;
      for (const node of nodes) {
        if (node === next) next = next.nextSibling;
        else element.insertBefore(node, next);
      }
    };
    new ResizeObserver(([{ contentRect }]) => {
      ({ width, height } = contentRect);
      repaint();
    }).observe(element);
    return { element, repaint };
  }

  const linear = ([a, b], [c, d]) => (x) => c + ((x - a) / (b - a)) * (d - c);

  function ticks([low, high], most) {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= rough);
    const first = Math.ceil(low / step - 1e-9), count = Math.floor(high / step + 1e-9) - first + 1;
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    return Array.from({ length: count }, (_, i) => [(first + i) * step, fixed((first + i) * step, digits)]);
  }

  // A horizontal axis at height y, for the scale x of `range`.
  function axis(x, y, range, title, most = 6) {
    const [left, right] = range.map(x);
    return [
      svg("line", { class: "axis", x1: left, x2: right, y1: y, y2: y }),
      ticks(range, most).map(([value, text]) => [
        svg("line", { class: "axis", x1: x(value), x2: x(value), y1: y, y2: y + 4 }),
        svg("text", { x: x(value), y: y + 16, "text-anchor": "middle" }, text),
      ]),
      svg("text", { x: right, y: y - 5, "text-anchor": "end" }, title),
    ];
  }

  // A vertical axis at x, for the scale y of `range`, with its numbers to the left and its title on top.
  function upright(y, x, range, title, most = 5) {
    const [bottom, top] = range.map(y);
    return [
      svg("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: top }),
      ticks(range, most).map(([value, text]) => [
        svg("line", { class: "axis", x1: x - 4, x2: x, y1: y(value), y2: y(value) }),
        svg("text", { x: x - 6, y: y(value) + 4, "text-anchor": "end" }, text),
      ]),
      svg("text", { x: x - 6, y: top - 7, "text-anchor": "middle" }, title),
    ];
  }
  // The curve of f over `range`, in the scales x and y.
  function curve(x, y, [low, high], f, points = 240) {
    const at = Array.from({ length: points + 1 }, (_, i) => low + (i / points) * (high - low));
    return path(at.map((value) => [x(value), y(f(value))]));
  }

  const path = (points) => "M" + points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join("L");
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  // A grey picture: ink, more or less opaque, so that the page's own background shows through. One of three
  // channels, one after the other in `pixels`, is red, green and blue.
  function picture(pixels, shape, label) {
    const [height, width] = shape.slice(-2);
    const canvas = html("canvas", { width, height, role: "img", "aria-label": label });
    draw(canvas, pixels);
    return canvas;
  }
  function draw(canvas, pixels) {
    const image = new ImageData(canvas.width, canvas.height), size = canvas.width * canvas.height;
    const colour = pixels.length > size;
    if (colour) for (let i = 0; i < size; i++) image.data[4 * i + 3] = 255;
    pixels.forEach((value, i) => {
      image.data[4 * (i % size) + (colour ? Math.floor(i / size) : 3)] = Math.round(255 * value);
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  // A handle to drag, over a drawing: `dragged` is told where, in pixels from the corner of the box around both.
  // A finger scrolls the page everywhere but here. The sliders do the same for keyboards and screen readers.
  function grip(dragged) {
    const element = html("span", { class: "vae-play-grip", "aria-hidden": "true",
      onpointerdown: (event) => { event.preventDefault(); element.setPointerCapture(event.pointerId); },
      onpointermove: (event) => {
        if (!element.hasPointerCapture(event.pointerId)) return;
        const box = element.parentElement.getBoundingClientRect();
        dragged(event.clientX - box.left, event.clientY - box.top);
      } });
    return { element, move(x, y) { element.style.left = `${x}px`; element.style.top = `${y}px`; } };
  }

  // Numbers

  const fixed = (x, digits) => x.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
  // Three digits, and a power of ten where JavaScript would write one.
  const raised = (digits) => [...digits].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");
  const brief = (x) => String(+x.toPrecision(3)).replace(/^-/, "−").replace(/e([+-])(\d+)/, (_, sign, digits) =>
    ` · 10${sign === "-" ? "⁻" : ""}${raised(digits)}`);

  // The density of N(mean, deviation²).
  const bell = (mean, deviation) => (x) =>
    Math.exp(-0.5 * ((x - mean) / deviation) ** 2) / deviation / Math.sqrt(2 * Math.PI);

  function normal() {
    const radius = Math.sqrt(-2 * Math.log(1 - Math.random()));
    return radius * Math.cos(2 * Math.PI * Math.random());
  }

  // What vae_lab.play.pack wrote: base64, in the byte order of all machines that browsers run on.
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  function unpack(packed) {
    if (packed.bytes) return bytes(packed.bytes);
    const integers = new Int16Array(bytes(packed.integers).buffer);
    const scales = new Float32Array(bytes(packed.scales).buffer);
    return Float32Array.from(integers, (integer, i) => integer * scales[i % scales.length]);
  }

  // Dense layers with the activation between them, then the logistic function: z -> means.
  function decoder({ activation, layers }) {
    // The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26).
    const erf = (x) => {
      const t = 1 / (1 + 0.3275911 * Math.abs(x));
      const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
      return Math.sign(x) * (1 - series * Math.exp(-x * x));
    };
    const bend = {
      gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
      tanh: Math.tanh,
      relu: (x) => Math.max(0, x),
    }[activation];
    const ready = layers.map(({ weight, bias }) => ({ weight: unpack(weight), bias: unpack(bias) }));
    const dense = (x, { weight, bias }) => {
      const out = Float64Array.from(bias);
      x.forEach((value, i) => {
        for (let j = 0, at = i * out.length; j < out.length; j++, at++) out[j] += value * weight[at];
      });
      return out;
    };
    return (z) => {
      let x = Float64Array.from(z);
      ready.forEach((layer, i) => {
        x = dense(x, layer);
        if (i < ready.length - 1) x = x.map(bend);
      });
      return x.map((logit) => 1 / (1 + Math.exp(-logit)));
    };
  }

  // The widget of a figure, made of the data in its page; it takes the place of one that is there already.
  function build(source) {
    const figure = document.getElementById(source.dataset.figure);
    figure.querySelector(".vae-play")?.remove();
    Object.assign(words, JSON.parse(source.dataset.words));
    const nodes = kinds[source.dataset.kind](JSON.parse(source.textContent));
    const number = figure.querySelector(".caption-number").textContent.trim();
    const label = words.playing.replace("{figure}", number);
    const widget = html("div", { class: "vae-play", role: "group", "aria-label": label }, nodes);
    figure.insertBefore(widget, figure.querySelector("figcaption"));
    figure.classList.add("vae-playing");
  }
  // Scripts that are deferred have all run by now.
  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("script.vae-play-data").forEach(build);
  });

  return { kinds, words, build, html, svg, slider, button, select, choice, readout, announcer, predict, runner, panel, linear,
    axis, upright, curve, path, clamp, picture, draw, grip, fixed, brief, bell, normal, unpack, decoder };
})();
