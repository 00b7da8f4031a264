"""Agent attention as one kernel: every token attends to the agents, with a bias sampled by position."""
