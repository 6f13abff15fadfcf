"""A study from Python: a network, a criterion and arrays as they are.

Results are named by what decides them: functions by module and name, arrays by their content.
"""

from sklearn.datasets import load_breast_cancer
from torch import nn

import prunephase as pp


def network(input_shape, classes, width=32):
    return nn.Sequential(nn.Linear(*input_shape, width), nn.Tanh(), nn.Linear(width, classes))


def travelled(snapshot):
    """Weights that stayed close to where they began go first."""
    now = snapshot.network.get_parameter
    return {name: (now(name).detach() - snapshot.initial[name]).abs() for name in snapshot.masks}


def main():
    x, y = load_breast_cancer(return_X_y=True)
    base = pp.Trial(
        data=pp.save_arrays("arrays", x=x, y=y),
        noise={"kind": "symmetric-flip", "rate": 0.3},
        model={"name": network, "kwargs": {"width": 24}},
        recipe={"lr": 0.1, "batch_size": 32, "epochs": 15},
        pruning={"fraction": 0.5, "levels": 4},
    )
    trials = pp.grid(base, pruning__criterion=["magnitude", travelled], seed=range(2))
    table = pp.run(trials, store="runs", plugins=[network], workers=1)
    for group in pp.curve(table, by=["pruning.criterion"]).groups():
        print(group.key, pp.phases(group).sentence)


if __name__ == "__main__":
    main()
