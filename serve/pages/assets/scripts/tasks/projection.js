// --- principal components ----------------------------------------------------------------------------------------------------
/** PCA of a few hundred vectors to two axes: {points: [[x, y]], kept}. `kept` is each axis' share of the variance. Computed of the inner products
    between the centred vectors, by power iteration: as many as there are lines, however wide a vector is. The sign of an axis is chosen so that
    its largest coordinate is positive, so that the same lines give the same map. */
function project(vectors) {
  const count = vectors.length, width = vectors[0].length;
  const middle = Array.from({ length: width }, (_, at) => vectors.reduce((sum, vector) => sum + vector[at], 0) / count);
  const centred = vectors.map((vector) => vector.map((value, at) => value - middle[at]));
  const gram = centred.map((a) => centred.map((b) => dot(a, b)));
  const total = gram.reduce((sum, row, at) => sum + row[at], 0);
  const axes = [];
  for (let axis = 0; axis < 2; axis++) {
    let vector = gram.map((_, at) => Math.sin(1 + at * (axis + 1.3))), value = 0;
    for (let round = 0; round < 500; round++) {
      let next = gram.map((row) => dot(row, vector));
      for (const other of axes) { const share = dot(next, other.vector); next = next.map((entry, at) => entry - share * other.vector[at]); }
      const length = Math.sqrt(dot(next, next));
      if (length <= 1e-12 * Math.max(total, 1e-12)) { value = 0; vector = next.map(() => 0); break; }
      next = next.map((entry) => entry / length);
      const moved = next.reduce((most, entry, at) => Math.max(most, Math.abs(entry - vector[at])), 0);
      [vector, value] = [next, length];
      if (moved < 1e-10) break;
    }
    const peak = vector.reduce((best, entry) => (Math.abs(entry) > Math.abs(best) ? entry : best), 0);
    axes.push({ vector: peak < 0 ? vector.map((entry) => -entry) : vector, value });
  }
  return { points: centred.map((_, at) => axes.map(({ vector, value }) => vector[at] * Math.sqrt(Math.max(value, 0)))), kept: axes.map(({ value }) => (total > 0 ? value / total : 0)) };
}
