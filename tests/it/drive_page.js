// What a person does with the treemap; what it then shows is written below the page, a line each.
const said = document.body.appendChild(document.createElement("pre"));
said.id = "driven";
const say = (what, ...words) => { said.textContent += `${what}: ${words.join(" ")}\n`; };
const [map, tip] = ["map", "tip"].map(id => document.getElementById(id));
const tile = name => [...map.children].find(it => it.getAttribute("aria-label")?.startsWith(name + ", "));
const place = () => decodeURIComponent(location.hash.slice(1));
const after = () => new Promise(done => setTimeout(done, 30));
const key = name => (document.activeElement ?? document.body)
  .dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));

(async () => {
  const over = tile("app"), box = over.getBoundingClientRect();
  over.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: box.left + 5, clientY: box.top + 5 }));
  say("hover", tip.hidden ? "nothing" : tip.textContent);
  map.dispatchEvent(new PointerEvent("pointerleave"));
  say("away", tip.hidden ? "nothing" : "still there");
  over.click();
  await after();
  say("click", place());
  tile("dep 1.0").click();
  await after();
  say("click again", place());
  key("Escape");
  await after();
  say("escape", place(), "with", document.activeElement.getAttribute("aria-label")?.split(",")[0], "in focus");
  const from = document.activeElement;
  for (const way of ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"]) if (document.activeElement === from) key(way);
  say("arrow", document.activeElement !== from && document.activeElement.parentElement === map ? "moved" : "stayed");
  history.back();
  await after();
  say("back", place());
  const by = [...document.querySelectorAll("input[name=by]")].find(it => !it.checked);
  const before = map.firstElementChild.getAttribute("aria-label");
  by.click();
  say("other size", map.firstElementChild.getAttribute("aria-label") !== before ? "drawn anew" : "the same");
  say("end", "of it");
})().catch(error => say("error", error));
