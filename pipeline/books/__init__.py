"""What a results directory keeps beside its stores: run file, slides, states, runs, a lease."""
