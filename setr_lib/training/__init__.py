"""How a run goes: recipes, the loop, devices, state and record."""
