"""``python -m hornbeam.bench``: as ``hornbeam bench``, without the packages of the command line."""

from hornbeam.bench.run import main

main()
