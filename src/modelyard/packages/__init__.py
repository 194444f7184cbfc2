"""Trained models as folders: contract, codecs, transforms, flavours, and the package that is reviewed and served."""
