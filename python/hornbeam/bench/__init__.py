"""What is measured: ``hornbeam bench NAME``, or ``python -m hornbeam.bench NAME`` without the command line.

A bench is a file ``bench_<NAME>.py`` with a function ``run(quick: bool) -> dict``; the first line of its
docstring is what ``hornbeam bench --help`` says of it. The other files are what benches share; of these the
command line uses :mod:`~hornbeam.bench.compare`, and the library none.
"""
