// Draws the search of the problem that is chosen in the list.
(() => {
  const read = id => JSON.parse(document.getElementById(id).textContent);
  const cases = read("cases");
  const select = document.getElementById("case");
  const says = document.getElementById("case-says");
  const kind = (us, why) => us === null ? "invalid" : why ? "slow, stopped early" : "measured";

  const rows = found => {
    const levels = Object.entries(found.levels).map(([what, us]) => ({what, us}));
    const steps = found.steps.map(([x, us, launches]) => ({x, us, launches}));
    // An invalid config has no time: it is marked along the top.
    const top = Math.max(...[...steps, ...levels].map(row => row.us), ...found.trials.map(trial => trial[1] || 0));
    const trials = found.trials.map(([x, us, why, config, launches]) => (
      {x, us: us === null ? top : us, why: why || "measured", what: kind(us, why), config, launches}
    ));
    return {levels, steps, trials};
  };

  const show = view => {
    const found = cases[Number(select.value)];
    says.textContent = found.says;
    for (const [name, values] of Object.entries(rows(found))) view.data(name, values);
    return view.runAsync();
  };

  // Log level 1: errors alone. Of kernels that agree there are no trials to show, which Vega would warn of.
  const options = {actions: false, renderer: "svg", logLevel: 1};
  const spec = read("detail-spec");
  spec.datasets = rows(cases[Number(select.value)]);
  vegaEmbed("#detail", spec, options).then(({view}) => {
    select.addEventListener("change", () => show(view));
    for (const link of document.querySelectorAll("a[data-case]")) {
      link.addEventListener("click", () => {
        select.value = link.dataset.case;
        show(view);
      });
    }
    return show(view);
  });
})();
