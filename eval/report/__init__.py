"""`medusa-apar eval report`: one page out of the folders of other measurements."""
