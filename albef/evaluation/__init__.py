"""How good a run is: baselines, statistics, behaviour tests."""
