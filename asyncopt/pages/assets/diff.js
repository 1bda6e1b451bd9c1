"use strict";
// What was changed from one text to another, word by word.

const MOST_WORDS = 1500; // of each: the table below has their product as its cells

function words(text) {
  return text.match(/\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) ?? [];
}

/** The parts as [kind, text], kind being "same", "gone" or "new"; null where the texts are too long to compare. */
function changes(before, after) {
  const [a, b] = [words(before), words(after)];
  if (a.length > MOST_WORDS || b.length > MOST_WORDS) return null;
  const wide = b.length + 1;
  const common = new Uint16Array((a.length + 1) * wide); // longest common subsequence of what is left from (i, j) on
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      common[i * wide + j] =
        a[i] === b[j]
          ? common[(i + 1) * wide + j + 1] + 1
          : Math.max(common[(i + 1) * wide + j], common[i * wide + j + 1]);
  return joined(a, b, common, wide);
}

function joined(a, b, common, wide) {
  const parts = [];
  const put = (kind, word) => {
    const last = parts.at(-1);
    if (last && last[0] === kind) last[1] += word;
    else parts.push([kind, word]);
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) put("same", a[(j++, i++)]);
    else if (i < a.length && (j === b.length || common[(i + 1) * wide + j] >= common[i * wide + j + 1])) put("gone", a[i++]);
    else put("new", b[j++]);
  }
  return parts;
}

/** The changes as text with insertions and deletions marked by more than colour. */
function difference(before, after) {
  const parts = changes(before, after);
  if (parts === null) return h("p", { class: "note" }, "These texts are too long to compare word by word.");
  const tags = { same: "span", gone: "del", new: "ins" };
  return h("p", { class: "theirs diff", dir: "auto" }, parts.map(([kind, text]) => h(tags[kind], {}, text)));
}
