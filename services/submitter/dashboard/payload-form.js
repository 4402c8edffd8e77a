/**
 * The fields of a payload, made from its JSON Schema: flat values, choices, and lists of them. A payload that is not flat
 * is edited as JSON.
 */

import { h } from "/assets/dom.js";

const FIRST_ID = "payload-0";
const MAX_SAFE_DIGITS = 15; // a longer number would be rounded
const MAX_DEPTH = 20; // of references and alternatives, which may refer to themselves

/** Return the schema with its references and `null` alternatives resolved, and whether it may be null. */
function resolve(schema, root, depth = 0) {
  const current = schema ?? {};
  if (depth > MAX_DEPTH) return { schema: {}, isNullable: false };
  if (current.$ref) {
    const { $ref, ...rest } = current;
    const target = root.$defs?.[$ref.replace("#/$defs/", "")];
    return target ? resolve({ ...target, ...rest }, root, depth + 1) : { schema: {}, isNullable: false };
  }
  const options = current.anyOf ?? current.oneOf;
  if (!options) return { schema: withSingleType(current), isNullable: [current.type].flat().includes("null") };
  const others = options.filter((option) => option.type !== "null");
  const isNullable = others.length < options.length;
  if (others.length !== 1) return { schema: {}, isNullable };
  const { anyOf, oneOf, ...rest } = current;
  return { schema: { ...rest, ...resolve(others[0], root, depth + 1).schema }, isNullable };
}

function withSingleType(schema) {
  if (!Array.isArray(schema.type)) return schema;
  const types = schema.type.filter((type) => type !== "null");
  return { ...schema, type: types.length === 1 ? types[0] : undefined };
}

const isFlat = ({ type, enum: values }) => ["string", "integer", "number", "boolean"].includes(type) || isChoice(values);
const isListable = (items) => isFlat(items) && (items.type !== "boolean" || isChoice(items.enum)); // true and false are no lines
const isChoice = (values) => Array.isArray(values) && values.every((value) => typeof value !== "object");
const isExact = (value, type) => type === "number" || !Number.isInteger(value) || Number.isSafeInteger(value); // JavaScript has rounded others
const isLine = (value) => typeof value !== "string" || !/[\r\n]/.test(value);

/** Return whether a field keeps its choices and its initial value: none is rounded, and none needs several lines. */
function keepsValues({ schema, items }) {
  const choices = schema.enum ?? items?.enum;
  const { type } = items ?? schema;
  const values = choices ?? [schema.default].flat();
  return values.every((value) => isExact(value, type) && (choices || isLine(value)) && (!items || choices || value !== ""));
}

/**
 * Create the form fields of a payload, or return null if a form cannot show all of it.
 *
 * @param {?object} schema the JSON Schema of the payload, as a worker has sent it: it may be anything
 * @returns {?PayloadFields}
 */
export function createFields(schema) {
  try {
    const fields = fieldsOf(schema);
    return fields && new PayloadFields(fields);
  } catch {
    return null; // it is not a valid schema
  }
}

/** Return of each field its name, schema, the schema of its items, and whether it is required or may be null. */
function fieldsOf(schema) {
  if (!schema) return null;
  const { schema: payload } = resolve(schema, schema);
  if (payload.type !== "object" || !payload.properties || payload.patternProperties) return null;
  if (payload.additionalProperties && typeof payload.additionalProperties === "object") return null;
  const required = new Set(payload.required);
  const fields = Object.entries(payload.properties).map(([name, property]) => {
    const { schema: field, isNullable } = resolve(property, schema);
    const items = field.type === "array" && !Array.isArray(field.items) ? resolve(field.items, schema).schema : null;
    return { name, schema: field, items, isNullable, isRequired: required.has(name) };
  });
  const hasField = (field) => (isFlat(field.schema) || (field.items && isListable(field.items))) && keepsValues(field);
  return fields.every(hasField) ? fields : null;
}

/** The form fields of a payload. */
class PayloadFields {
  element = h("div", { class: "fields" });
  #controls;

  constructor(fields) {
    this.#controls = fields.map((field, index) => new Control(field, `payload-${index}`));
    this.element.append(...this.#controls.map((control) => control.element));
  }

  /** Return the payload as JSON text, in which numbers are as they were typed; what was left out has its default. */
  toJson() {
    const members = this.#controls.map((control) => [control.name, control.toJson()]).filter(([, json]) => json !== undefined);
    return `{${members.map(([name, json]) => `${JSON.stringify(name)}: ${json}`).join(", ")}}`;
  }

  focus() {
    this.#controls[0]?.focus();
  }
}

/** One field with its label, its hint, and what is accepted. */
class Control {
  #field;
  #input;

  constructor(field, id) {
    this.#field = field;
    this.#input = createInput(field, id);
    const { schema, isRequired } = field;
    const texts = [schema.title ?? field.name, isRequired ? "" : h("small", {}, " optional")];
    const label = field.items?.enum ? h("b", { id: `${id}-name`, dir: "auto" }, ...texts) : h("label", { for: id, dir: "auto" }, ...texts);
    const hint = hintText(field);
    const note = h("small", { id: `${id}-hint`, class: "soft", dir: "auto" }, hint);
    if (hint) this.#input.setAttribute("aria-describedby", note.id);
    this.element = h("div", { class: "field" }, label, this.#input, hint && note);
  }

  get name() {
    return this.#field.name;
  }

  focus() {
    (this.#input.querySelector("input") ?? this.#input).focus();
  }

  /** Return the value as JSON text; undefined if it is left out. */
  toJson() {
    const { schema, items, isRequired, isNullable } = this.#field;
    const text = this.#input.value;
    if (items) {
      const values = items.enum ? checkedValues(this.#input) : text.split("\n").filter((line) => line.trim());
      if (!values.length && !isRequired) return undefined;
      return `[${values.map((value) => toJson(value, items)).join(", ")}]`;
    }
    if (text !== "") return toJson(text, schema);
    if (!isRequired) return undefined;
    return isNullable ? "null" : '""';
  }
}

function createInput({ schema, items, isRequired, isNullable }, id) {
  const needed = isRequired && !isNullable;
  const common = { id, required: needed, autofocus: id === FIRST_ID };
  if (items) return createListInput(schema, items, common);
  const initial = schema.default === undefined || schema.default === null ? "" : schema.default;
  if (schema.enum) return choice(schema.enum, needed, initial, common);
  if (schema.type === "boolean") return choice([true, false], needed, initial, common);
  if (schema.type === "string") {
    const limits = { minlength: schema.minLength, maxlength: schema.maxLength }; // HTML's `pattern` would have to match all of it
    return h("input", { ...common, ...limits, type: "text", value: initial, dir: "auto", autocomplete: "off" });
  }
  const whole = schema.type === "integer";
  const input = h("input", { ...common, type: "text", inputmode: whole ? "numeric" : "decimal", value: initial, autocomplete: "off" });
  input.addEventListener("input", () => input.setCustomValidity(numberProblem(input.value, schema)));
  return input;
}

function createListInput(schema, items, common) {
  if (items.enum) return createCheckboxes(schema, items, common);
  const initial = Array.isArray(schema.default) ? schema.default.join("\n") : "";
  const input = h("textarea", { ...common, required: common.required && schema.minItems > 0, rows: 3, dir: "auto" }, initial);
  const check = () => input.value.split("\n").filter((line) => line.trim()).map((line) => (items.type === "string" ? "" : numberProblem(line.trim(), items))).find(Boolean);
  input.addEventListener("input", () => input.setCustomValidity(check() ?? ""));
  return input;
}

/** Create a check box for each of the values, which are JSON. */
function createCheckboxes(schema, items, { id, required, autofocus }) {
  const initial = new Set([schema.default].flat());
  const boxes = items.enum.map((value, index) =>
    h("input", { type: "checkbox", value: JSON.stringify(value), checked: initial.has(value), autofocus: autofocus && !index }));
  const labels = boxes.map((box, index) => h("label", { dir: "auto" }, box, String(items.enum[index])));
  const group = h("div", { id, role: "group", class: "checks", "aria-labelledby": `${id}-name` }, ...labels);
  const needsOne = required && schema.minItems > 0;
  const check = () => boxes[0]?.setCustomValidity(needsOne && !checkedValues(group).length ? "Choose at least one." : "");
  group.addEventListener("input", check);
  check();
  return group;
}

function checkedValues(group) {
  return [...group.querySelectorAll(":checked")].map(({ value }) => value);
}

/** Create a choice; its values are JSON, since a choice may have texts and numbers. */
function choice(values, isNeeded, initial, common) {
  const none = h("option", { value: "" }, isNeeded ? "Choose…" : "–");
  const options = values.map((value) => h("option", { value: JSON.stringify(value), selected: value === initial }, String(value)));
  return h("select", common, none, ...options);
}

function toJson(text, { type, enum: values }) {
  if (values || type === "boolean") return text; // JSON already
  return type === "string" ? JSON.stringify(text) : text.trim();
}

/** Return why a text is not a number that a field accepts, "" if it is one. */
function numberProblem(text, { type, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf }) {
  if (!text.trim()) return "";
  const pattern = type === "integer" ? /^-?(0|[1-9]\d*)$/ : /^-?(0|[1-9]\d*)(\.\d+)?(e[+-]?\d+)?$/i;
  if (!pattern.test(text.trim())) return type === "integer" ? "Enter a whole number." : "Enter a number, such as 1.5.";
  const value = Number(text);
  if (value < minimum) return `Enter ${minimum} or more.`;
  if (value > maximum) return `Enter ${maximum} or less.`;
  if (value <= exclusiveMinimum) return `Enter more than ${exclusiveMinimum}.`;
  if (value >= exclusiveMaximum) return `Enter less than ${exclusiveMaximum}.`;
  const isExact = text.replace(/\D/g, "").length <= MAX_SAFE_DIGITS;
  return multipleOf && isExact && value % multipleOf !== 0 ? `Enter a multiple of ${multipleOf}.` : "";
}

function hintText({ schema, items }) {
  return [schema.description, items && !items.enum && "One per line."].filter(Boolean).join(" ");
}
