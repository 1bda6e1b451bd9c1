"use strict";
// What the tests ask of a page, as functions that return plain values.

globalThis.checks = (() => {
  const SLACK = 1.5; // pixels by which boxes may touch

  const visible = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && !element.closest(".unseen, .skip, .u-wrap");

  /** The box as far as no ancestor cuts it off. */
  function cut(box, element) {
    let { left, top, right, bottom } = box;
    for (let one = element; one && one !== document.documentElement; one = one.parentElement) {
      const style = getComputedStyle(one);
      if (style.overflowX === "visible" && style.overflowY === "visible") continue;
      if (style.display === "inline") continue; // nothing is cut off by what is no box
      const edge = one.getBoundingClientRect();
      [left, top, right, bottom] = [Math.max(left, edge.left), Math.max(top, edge.top), Math.min(right, edge.right), Math.min(bottom, edge.bottom)];
    }
    return { left, top, right, bottom };
  }

  function boxes() {
    const found = [];
    const add = (box, element, name) => {
      const { left, top, right, bottom } = cut(box, element);
      if (right - left > SLACK && bottom - top > SLACK) found.push({ left, top, right, bottom, element, name });
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const [node, element] = [walker.currentNode, walker.currentNode.parentElement];
      if (!node.data.trim() || element.closest("script, style, noscript, option") || !visible(element)) continue;
      const range = document.createRange();
      range.selectNodeContents(node);
      for (const box of range.getClientRects()) {
        // The box of a line is as high as the tallest font in it; letters fill the middle.
        const room = (box.bottom - box.top) * 0.25;
        add({ left: box.left, right: box.right, top: box.top + room, bottom: box.bottom - room }, element, node.data.slice(0, 40));
      }
    }
    for (const element of document.querySelectorAll("button, input, select, summary")) if (visible(element)) add(element.getBoundingClientRect(), element, `<${element.localName}> ${element.textContent.slice(0, 40)}`);
    return found;
  }

  // Elements by numbers of their own: how many there are before one changes while a page follows a run.
  const numbers = new WeakMap();
  let counted = 0;
  const numberOf = (element) => numbers.get(element) ?? (numbers.set(element, ++counted), counted);

  const within = (a, b) => a.element.contains(b.element) || b.element.contains(a.element);

  return {
    /** Pairs of texts or controls that lie over each other. */
    overlaps() {
      const all = boxes().sort((a, b) => a.top - b.top);
      const found = [];
      for (let i = 0; i < all.length; i++)
        for (let j = i + 1; j < all.length && all[j].top < all[i].bottom - SLACK; j++)
          if (all[i].left < all[j].right - SLACK && all[j].left < all[i].right - SLACK && !within(all[i], all[j])) found.push([all[i].name, all[j].name, [all[i].left, all[i].top, all[i].right, all[i].bottom].map(Math.round), [all[j].left, all[j].top, all[j].right, all[j].bottom].map(Math.round)]);
      return found.slice(0, 10);
    },

    /** Pixels by which the page is wider than the screen, and what sticks out. */
    tooWide(width) {
      const wide = document.documentElement.scrollWidth - width;
      const out = [...document.querySelectorAll("body *")].filter((one) => visible(one) && cut(one.getBoundingClientRect(), one.parentElement).right > width + 1);
      return wide > 0 || out.length ? [wide, ...out.slice(0, 5).map((one) => one.outerHTML.slice(0, 120))] : null;
    },

    /** Elements that the page itself never makes. */
    strangers() {
      const known = "A B BODY BUTTON CANVAS CAPTION DD DEL DETAILS DIV DL DT FORM H1 H2 H3 H4 HEAD HEADER HTML I INPUT INS LABEL LI LINK MAIN META NAV NOSCRIPT OPTION P PRE SCRIPT SECTION SELECT SMALL SPAN STRONG STYLE SUMMARY TABLE TBODY TD TH THEAD TITLE TR UL circle g line path rect svg text title".split(" ");
      const all = [...document.querySelectorAll("*")];
      return [...new Set(all.filter((one) => !known.includes(one.tagName) || [...one.attributes].some((attribute) => attribute.name.startsWith("on"))).map((one) => one.outerHTML.slice(0, 120)))];
    },

    /** Elements inside of texts that somebody else wrote, but for the marks of a difference. */
    nodesInTexts() {
      return [...document.querySelectorAll(".theirs:not(.diff) *")].map((one) => one.outerHTML.slice(0, 120));
    },

    texts: (selector) => [...document.querySelectorAll(selector)].map((one) => one.textContent),

    /** Where to press the mouse for this element. */
    middle(selector, place) {
      const element = document.querySelectorAll(selector)[place];
      if (!element) throw new Error(`there is no ${selector}`);
      element.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
      const box = element.getClientRects()[0];
      const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
      const hit = document.elementFromPoint(x, y);
      if (!hit || !(element.contains(hit) || hit.contains(element))) throw new Error(`${selector} is hidden by ${hit?.outerHTML.slice(0, 120)}`);
      return [x, y];
    },

    /** The control that has the focus: its number, and whether that can be seen. */
    focus() {
      const one = document.activeElement;
      if (!one || one === document.body) return null;
      const style = getComputedStyle(one);
      const box = one.getBoundingClientRect();
      const inside = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
      return { place: numberOf(one), seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1 && inside, what: one.outerHTML.slice(0, 120) };
    },

    /** The controls that Tab must reach, with their numbers. */
    reachable() {
      const controls = "a[href], button, input, select, summary, [tabindex='0']";
      return [...document.querySelectorAll(controls)].filter((one) => one.tabIndex >= 0 && !one.disabled && one.checkVisibility({ visibilityProperty: true })).map((one) => [numberOf(one), one.outerHTML.slice(0, 120)]);
    },
  };
})();
