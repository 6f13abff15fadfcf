"""Claims of papers, tested at a small scale: a plan per paper (*.toml), fixed before it is run."""

from prunephase.claims.answers import Answer, Result, check, evaluate
from prunephase.claims.plan import Claim, Plan, load, papers
from prunephase.claims.words import text

__all__ = ["Answer", "Claim", "Plan", "Result", "check", "evaluate", "load", "papers", "text"]
