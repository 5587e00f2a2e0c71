// Pointer, wheel and keys → what the page does. Positions are device pixels within the rows.

const STEP = 1.35;  // of a zoom by key or button

export function listen(canvas, page) {
  const { viewport } = page;
  const at = (event) => [event.offsetX * viewport.dots, event.offsetY * viewport.dots];
  let grip = null;
  canvas.addEventListener("pointerdown", (event) => {
    grip = { x: event.clientX, y: event.clientY, moved: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!grip) return page.point(...at(event), event);
    const dx = event.clientX - grip.x, dy = event.clientY - grip.y;
    if (!grip.moved && Math.hypot(dx, dy) <= 3) return undefined;
    Object.assign(grip, { x: event.clientX, y: event.clientY, moved: true });
    return page.move(-dx * viewport.dots, -dy * viewport.dots);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (grip && !grip.moved) page.choose(page.thingAt(...at(event)));
    grip = null;
  });
  canvas.addEventListener("pointercancel", () => { grip = null; });
  canvas.addEventListener("pointerleave", () => page.point(-1, -1, null));
  canvas.addEventListener("dblclick", () => page.all());
  for (const element of [canvas, page.canvases.names, page.canvases.peaks]) {
    element.addEventListener("wheel", (event) => wheel(event, element !== canvas),
      { passive: false });
  }

  function wheel(event, margin) {
    event.preventDefault();
    const [x, y] = at(event), lines = event.deltaMode === 1 ? 30 : 1;
    const dx = event.deltaX * lines * viewport.dots, dy = event.deltaY * lines * viewport.dots;
    if (event.ctrlKey || event.metaKey) page.stretch(Math.exp(-dy / 400), y);
    else if (margin || event.shiftKey) page.move(0, dy || dx);
    else if (Math.abs(dx) > Math.abs(dy)) page.move(dx, 0);
    else page.zoom(Math.exp(-dy / 400), x);
  }

  const middle = () => viewport.width / 2, centre = () => viewport.height / 2;
  const keys = {
    "+": () => page.zoom(STEP, middle()), "=": () => page.zoom(STEP, middle()),
    "-": () => page.zoom(1 / STEP, middle()), "0": () => page.all(),
    "]": () => page.stretch(STEP, centre()), "[": () => page.stretch(1 / STEP, centre()),
    ArrowLeft: () => page.move(-viewport.width / 8, 0),
    ArrowRight: () => page.move(viewport.width / 8, 0),
    ArrowUp: () => page.move(0, -viewport.height / 4),
    ArrowDown: () => page.move(0, viewport.height / 4),
    PageUp: () => page.move(0, -viewport.height), PageDown: () => page.move(0, viewport.height),
    Home: () => page.move(-1e9, 0), End: () => page.move(1e9, 0),
    Enter: () => page.first(), c: () => page.chain(), Escape: () => page.letGo(),
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = keys[event.key];
    if (act) act();
    if (act || page.step(event.key)) event.preventDefault();
  });
}
