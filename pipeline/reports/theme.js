"use strict";
// Light or dark theme: the system's, until the reader chooses one. This runs in the head, so the page never flashes.
{
  const names = ["system", "light", "dark"];
  let chosen = "system";
  try {
    chosen = localStorage.getItem("theme") ?? "system";
  } catch {
    // Storage may be blocked; then the choice lasts until the page is closed.
  }

  const apply = (name) => {
    chosen = names.includes(name) ? name : "system";
    if (chosen === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    document.dispatchEvent(new Event("themechange"));
  };
  apply(chosen);

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => (button.textContent = `Theme: ${chosen}`);
    button.hidden = false;
    show();
    button.addEventListener("click", () => {
      apply(names[(names.indexOf(chosen) + 1) % names.length]);
      show();
      try {
        localStorage.setItem("theme", chosen);
      } catch {
        // As above.
      }
    });
  });
}
