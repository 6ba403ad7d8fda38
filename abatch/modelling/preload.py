"""What workers import, once for all of them; none takes a copy of it when it collects garbage."""

import gc

import sklearn.linear_model
import sklearn.pipeline  # noqa: F401

import abatch.modelling.inference  # noqa: F401

gc.freeze()
