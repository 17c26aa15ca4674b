"""Few-step image samplers: GS-Jacobi for TarFlow, SeqRF and PAR on one footing.

The systems are `fewstep.tarflow`, `fewstep.seqrf` and `fewstep.par`. Nothing is loaded
here: an import of one part must not cost the others.
"""
