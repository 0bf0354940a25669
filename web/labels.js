// Combos whose choices have labels show them: graphs keep the short choices, people read titles.
import { app } from "../../scripts/app.js";

const known = new Map();
let tables;

/** The labels of a node's combo in the language of the page, where the pack has a table of it. */
async function translated(node, input) {
  tables ??= fetch(new URL("../../api/i18n", import.meta.url))
    .then((answer) => answer.json())
    .catch(() => ({}));
  const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
  return (await tables)[language]?.nodeDefs?.[node]?.inputs?.[input]?.options ?? {};
}

app.registerExtension({
  name: "bfrfaces.labels",
  async beforeRegisterNodeDef(nodeType, nodeData) {
    const found = {};
    for (const part of [nodeData.input?.required, nodeData.input?.optional]) {
      for (const [name, spec] of Object.entries(part ?? {})) {
        const labels = spec[1]?.labels;
        if (labels) found[name] = { ...labels, ...(await translated(nodeData.name, name)) };
      }
    }
    if (Object.keys(found).length) known.set(nodeData.name, found);
  },
  nodeCreated(node) {
    for (const [name, labels] of Object.entries(known.get(node.comfyClass) ?? {})) {
      const widget = node.widgets?.find((one) => one.name === name);
      if (widget) widget.options.getOptionLabel = (value) => labels[value] ?? String(value ?? "");
    }
  },
});
