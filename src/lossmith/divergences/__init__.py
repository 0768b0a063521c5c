"""Divergences between distributions, each by the convex function that generates it; and how far apart samples are.

=====================  ==================================================================================================