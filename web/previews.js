// Pictures that a node with a VIDEO input shows are pictures: the page would take them for films and fail to play them.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "bfrfaces.previews",
  nodeCreated(node) {
    if (node.comfyClass === "BFR_SelectTracks") node.previewMediaType = "image";
  },
});
