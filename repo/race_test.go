//go:build race

package repo

// underRace: the race detector makes everything many times slower; the tests
// that are long by their number of cases do fewer of them.
const underRace = true
