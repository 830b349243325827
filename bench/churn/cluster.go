package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
)

const (
	pageSize = 8192
	// incompressible is how many bytes of a page are random: pages shrink to a third.
	incompressible = pageSize / 3
)

// cluster is a cluster in which only the version of each page is kept: its
// content follows from that.
type cluster struct {
	files [][]uint32 // version of each page; 0 is none
	next  uint32
	rng   *rand.Rand
}

func newCluster(files, pages int, seed uint64) *cluster {
	c := &cluster{rng: rand.New(rand.NewPCG(seed, 1))}
	for range files {
		c.files = append(c.files, nil)
		c.grow(len(c.files)-1, pages)
	}
	return c
}

func (c *cluster) path(file int) string { return fmt.Sprintf("base/5/%d", 16384+file) }

func (c *cluster) pages() (n int) {
	for _, f := range c.files {
		n += len(f)
	}
	return n
}

func (c *cluster) grow(file, pages int) {
	for range pages {
		c.next++
		c.files[file] = append(c.files[file], c.next)
	}
}

// fill writes the content of a version of a page, which is never zero.
func fill(page []byte, version uint32) {
	x := uint64(version)*0x9e3779b97f4a7c15 + 1
	for i := 0; i < incompressible; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(page[i:], x)
	}
	clear(page[incompressible/8*8+8:])
}

// touch changes pages of the cluster, each chosen by pick.
func (c *cluster) touch(n int, pick func() (file, page int)) {
	for range n {
		f, p := pick()
		c.next++
		c.files[f][p] = c.next
	}
}

// anywhere gives a page of the whole cluster.
func (c *cluster) anywhere() (file, page int) {
	file = c.rng.IntN(len(c.files))
	return file, c.rng.IntN(len(c.files[file]))
}

// hot gives a page of the first twentieth of every file.
func (c *cluster) hot() (file, page int) {
	file = c.rng.IntN(len(c.files))
	return file, c.rng.IntN(max(1, len(c.files[file])/20))
}

// recent gives a page of the last tenth of a file.
func (c *cluster) recent() (file, page int) {
	file = c.rng.IntN(len(c.files))
	n := len(c.files[file])
	return file, n - 1 - c.rng.IntN(max(1, n/10))
}

// workload is what one day does to the cluster.
type workload struct {
	name string
	day  func(c *cluster, day int)
}

// percent is a share of the cluster's pages.
func (c *cluster) percent(p float64) int { return max(1, int(p*float64(c.pages())/100)) }

var workloads = []workload{
	{"uniform 1 %", func(c *cluster, _ int) { c.touch(c.percent(1), c.anywhere) }},
	{"uniform 5 %", func(c *cluster, _ int) { c.touch(c.percent(5), c.anywhere) }},
	{"uniform 20 %", func(c *cluster, _ int) { c.touch(c.percent(20), c.anywhere) }},
	{"hot area 5 %", func(c *cluster, _ int) { c.touch(c.percent(5), c.hot) }},
	{"append + hot", func(c *cluster, day int) {
		c.grow(day%len(c.files), c.percent(1))
		c.touch(c.percent(1), c.recent)
		c.touch(c.percent(0.5), c.hot)
	}},
	{"mixed", func(c *cluster, day int) {
		c.touch(c.percent(0.5), c.anywhere)
		c.touch(c.percent(2), c.hot)
		c.grow(day%len(c.files), c.percent(0.5))
		if day%10 == 9 { // a table is rewritten, as VACUUM FULL does
			f := day / 10 % len(c.files)
			n := len(c.files[f])
			c.files[f] = nil
			c.grow(f, n)
		}
	}},
}
