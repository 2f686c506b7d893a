document.documentElement.dataset.ready = makeModel(JSON.parse(document.getElementById("model").textContent)).kind;
