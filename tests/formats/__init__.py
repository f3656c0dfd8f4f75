"""Writers of tiny data sets in exactly the formats that people have, each as its publisher lays it out."""
