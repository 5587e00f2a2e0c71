// Elements made in one call. Texts go in as texts: nothing that a file says can act in the page.

export function put(parent, tag, words, properties = {}) {
  const node = document.createElement(tag);
  if (words !== undefined && words !== null) node.textContent = words;
  Object.assign(node, properties);
  parent.append(node);
  return node;
}

export function button(parent, words, act, properties = {}) {
  const node = put(parent, "button", words, { type: "button", ...properties });
  node.addEventListener("click", act);
  return node;
}

export const byId = (id) => document.getElementById(id);
