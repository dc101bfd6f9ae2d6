"use strict";
const $ = (id) => document.getElementById(id);
/** An element from a tag, properties and children. Text only ever becomes text nodes: nothing a user or model says is parsed as HTML. */
function h(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name === "vars") for (const [variable, number] of Object.entries(value)) element.style.setProperty("--" + variable, number);
    else if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const dot = (a, b) => a.reduce((sum, value, index) => sum + value * b[index], 0);
const show = (score) => (Math.abs(score) >= 100 ? score.toFixed(1) : Math.abs(score) >= 10 ? score.toFixed(3) : score.toFixed(4)).replace("-", "−");
/** An element of an SVG. */
function drawing(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes ?? {})) element.setAttribute(name, value);
  element.append(...children.filter((child) => child != null));
  return element;
}
const linesOf = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
/** Tells a screen reader. */
const say = (text) => { $("live").textContent = text; };
