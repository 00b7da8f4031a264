"""Region attention as one kernel: tokens of a region attend to the tokens of the regions it is routed to."""
