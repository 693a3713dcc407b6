/* Between a Python explorer and its views (view.js), where both are alive: an anywidget module
without a view. */
const EVENT = "course-explorer";

function initialize({ model }) {
  const key = model.get("key");
  const tell = (hello) => document.dispatchEvent(
    new CustomEvent(EVENT, { detail: { key, states: model.get("states"), from: model, hello } }),
  );
  const hear = ({ detail }) => {
    if (detail.key !== key || detail.from === model) return;
    model.set("states", detail.states);
    model.save_changes();
  };
  document.addEventListener(EVENT, hear);
  model.on("change:states", () => tell(false));
  tell(true);
  return () => document.removeEventListener(EVENT, hear);
}

export default { initialize };
