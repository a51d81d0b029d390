"""The front-end in C: `ea_logmel.c` (plain C99, also for microcontrollers), `_logmel.c` (its CPython binding).

`tables` makes what the C code reads, `stream` wraps the binding. Nothing here is imported before it is asked for:
where no compiler was at hand the binding does not exist, and `edgeaudio.frontend.choice` says so.
"""
