"use strict";
// Draws every chart of the page. Expressions go through Vega's interpreter (ast), so the page never evaluates text.
(function () {
  var specs = JSON.parse(document.getElementById("specs").textContent);
  document.querySelectorAll("[data-chart]").forEach(function (place) {
    window.vegaEmbed(place, specs[Number(place.dataset.chart)], {
      ast: true,
      actions: false,
      renderer: "svg",
      defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
    }).then(
      function () { place.classList.add("drawn"); },
      function (problem) {
        place.textContent = "This chart could not be drawn (" + problem.message + "); its numbers stand in the table below.";
      }
    );
  });
})();
