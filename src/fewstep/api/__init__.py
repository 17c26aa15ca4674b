"""fewstep for a notebook: load a model, sample, time, score and search.

The top layer beside the command line. It calls the stages that the workflow calls, so
an image drawn here is the workflow's image. `import fewstep` offers its names.
"""
