"use strict";
// Numbers as people read them. A figure that is not known is a dash, never a zero.

const NONE = "–";

function count(value) {
  return value === null || value === undefined ? NONE : Math.round(value).toLocaleString("en-US");
}

function compact(value) {
  if (value === null || value === undefined) return NONE;
  return Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 }).format(value);
}

function percent(share, digits = 1) {
  return share === null || share === undefined ? NONE : `${(100 * share).toFixed(digits)} %`;
}

function points(difference) {
  if (difference === null || difference === undefined) return NONE;
  return `${difference < 0 ? "−" : "+"}${Math.abs(100 * difference).toFixed(1)}`;
}

/** A score: a share of right answers in percent, or a loss. */
function score(value, scored) {
  if (value === null || value === undefined) return NONE;
  return scored === "share" ? percent(value) : Number(value.toPrecision(4)).toLocaleString("en-US");
}

function interval(low, high) {
  if (low === null || low === undefined) return "";
  return `${(100 * low).toFixed(1)} – ${(100 * high).toFixed(1)}`;
}

function money(usd) {
  if (!usd) return NONE; // nothing was counted where no price is known
  return usd < 0.01 ? `$${usd.toPrecision(2)}` : `$${usd.toFixed(2)}`;
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  return hours ? `${hours} h ${String(minutes).padStart(2, "0")} min` : `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
}

function moment(epoch) {
  if (!epoch) return NONE;
  const date = new Date(1000 * epoch);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

function stepName(step) {
  return step < 0 ? "start" : String(step + 1);
}
