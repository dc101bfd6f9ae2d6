"""What a checkpoint's processor files say of pictures and videos: sizes, resampling, mean and deviation.

What a size means for one family (a square, a budget of pixels, tiles) does not belong here.
It may import base, the files beside it and poolrt.runtime.
"""
