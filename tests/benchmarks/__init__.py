"""How fast slides are read and converted, beside what could be and what others do.

``python -m tests.benchmarks [--quick] [--large] [--only NAME] [--repeats N] [--slide PATH]
[--json FILE]``

A *job* is done by several *contenders*: ours, a limit (the least work there can be: `limits`, the
bare session of `predictions`, `writing`) and baselines (what one would use instead: `baselines`,
`published`, `dense`). ``wanted`` is what a ratio of medians is to be at least, and whether it is.
Rows that are no such ratio have modules of their own: `large`, `small`, `cohorts`, `overhead`,
`remote`. What is fair:

- Every run is a process of its own, which imports what it needs, opens the slide where the job is
  reading, starts its workers, and says that it is ready; only then its clock starts, and it stops
  before anything is taken down. Start-up is in no figure. Converting is from a path to a finished
  store: there the slide is opened on the clock, by all.
- In each round every contender runs once, one after another, each round beginning with another
  one. Ratios are of the runs of one round; what is shown is the median of the rounds, and the least
  and the largest. A machine that is busy or hot slows all of a round.
- All have as many threads, or as many processes, and on Linux are held to as many cores. Where
  there is a session of ONNX Runtime for each, it has one thread.
- A model's patches are known before: finding tissue is in no figure but those of `large` and
  `small`. Whoever predicts opens its sessions before the clock, but for the published code, which
  opens one for every patch.
- Files are read once before, so that they come from the page cache.
- All decode every pixel, or those of every patch that is tissue, and say how many that were;
  contenders that differ are an error. Pixels are dropped where they were decoded, or predicted:
  none is kept, none is sent between processes.
- Memory is the peak of the sum over the process and its children, looked at from outside every
  20 ms while the clock runs; what processes share counts in each. CPU seconds are theirs too.
"""
