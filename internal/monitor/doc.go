// Package monitor is what resident processes say of themselves by HTTP: that they
// are alive, whether they can work, and what they measure, in Prometheus' text format.
package monitor
