//! The programs are in the folder above, one file or folder each.
