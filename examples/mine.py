"""A criterion, a loss and a metric of one's own: a function each."""

from torch.nn.functional import nll_loss


def travelled(snapshot):
    """A pruning criterion: weights that stayed close to where they began go first. Higher scores stay."""
    network, initial = snapshot.network, snapshot.initial
    return {name: (network.get_parameter(name).detach() - initial[name]).abs() for name in snapshot.masks}


def bootstrapped(given):
    """A loss: labels mixed with the network's own guesses (Reed et al., 2015)."""
    share = given.spec.kwargs["share"]

    def loss(batch):
        logs = batch.network(batch.inputs).log_softmax(1)
        return (1 - share) * nll_loss(logs, batch.labels) - share * logs.amax(1).mean()

    return loss


def reach(snapshot):
    """A metric: the largest surviving weight, and the mean of all."""
    alive = [snapshot.network.get_parameter(name).detach()[mask].abs() for name, mask in snapshot.masks.items()]
    return {
        "largest": max(float(w.max()) for w in alive if len(w)),
        "mean": float(sum(w.sum() for w in alive) / sum(map(len, alive))),
    }
