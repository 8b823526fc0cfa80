"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const config = { displayModeBar: false, responsive: false, doubleClick: "reset" };

  // "--name" is a colour of the style sheet, "--name/0.2" the same with an opacity
  const painted = (value, style) => {
    if (typeof value === "string" && value.startsWith("--")) {
      const [name, opacity] = value.split("/");
      const color = style.getPropertyValue(name).trim();
      if (!color) return value;  // an arm may have such a name
      return opacity ? color + Math.round(opacity * 255).toString(16).padStart(2, "0") : color;
    }
    if (Array.isArray(value)) return value.map((one) => painted(one, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, painted(one, style)]));
    return value;
  };

  const draw = (place) => {
    if (!place.clientWidth) return;  // in something that is closed
    const style = getComputedStyle(document.documentElement);
    const figure = painted(figures[place.id], style);
    const narrow = place.clientWidth < 620;
    const layout = figure.layout;
    layout.width = place.clientWidth;
    layout.height = place.clientHeight;
    layout.font.family = style.getPropertyValue("--sans").trim();
    layout.hoverlabel.font.family = layout.font.family;
    if (layout.showlegend) {
      layout.legend = narrow
        ? { orientation: "h", x: 0, y: -0.2, yanchor: "top", font: { size: 11 } }
        : { x: 1.02, y: 1, font: { size: 12 } };
    }
    if (narrow) {
      layout.font.size = 11;
      layout.xaxis.tickfont.size = 10;
      for (const trace of figure.data) if (trace.mode === "markers+text") trace.mode = "markers";
    }
    Plotly.react(place, figure.data, layout, config);
  };

  const places = [...document.querySelectorAll(".plot")];
  const drawAll = () => places.forEach(draw);
  drawAll();

  let width = innerWidth, waiting = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;  // a phone's address bar comes and goes
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 120);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "";
    drawAll();
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.print;
    drawAll();
  });
})();
