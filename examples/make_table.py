"""Write wine.csv: 178 wines, 13 chemical measurements, the cultivar as somebody noted it, and the true one.

Every fourth note is wrong. The wines are those of scikit-learn (Aeberhard and Forina, 1992).
"""

import csv

import numpy as np
from sklearn.datasets import load_wine

wines = load_wine()
names = np.array(["barolo", "grignolino", "barbera"])
rng = np.random.default_rng(0)
noted = wines.target.copy()
wrong = rng.random(len(noted)) < 0.25
noted[wrong] = (noted[wrong] + rng.integers(1, 3, wrong.sum())) % 3

with open("wine.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow([*(name.replace("/", "_") for name in wines.feature_names), "noted", "truth"])
    for values, label, truth in zip(wines.data, names[noted], names[wines.target], strict=True):
        rows.writerow([*values, label, truth])
