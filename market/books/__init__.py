"""Order books: price levels (L2) and single orders (L3), and the arrays they live in."""
