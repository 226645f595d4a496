package dwcp

import (
	"bytes"
	"maps"
	"slices"
)

// The VM of an answer is most often the one of the answer before, and much of it has not changed. What has the same
// text is copied, which takes a part of the time of reading it.

// lasting is what a reader has read last.
type lasting struct {
	id, name, node, kind, message string
	config                        again[VMConfig]
	labels, annotations           again[map[string]string]
}

// againMax is the longest text that is kept.
const againMax = 16 << 10

// again is an object that was read, and its text.
type again[T any] struct {
	text  []byte
	value T
}

// read reads an object, or copies the last one where the text is the same.
func (a *again[T]) read(r *reader, into *T, read func(*reader, *T), clone func(*T) T) {
	r.skipSpace()
	// No object's text begins with the whole text of another.
	if len(a.text) > 0 && bytes.HasPrefix(r.json[r.at:], a.text) {
		*into = clone(&a.value)
		r.at += len(a.text)
		return
	}
	start := r.at
	var value T
	read(r, &value)
	*into = value
	if length := r.at - start; !r.bad && length <= againMax && r.json[start] == '{' {
		a.text = append(a.text[:0], r.json[start:r.at]...)
		a.value = clone(&value)
	}
}

// known reads text, without memory of its own where it is the last one.
func (r *reader) known(last *string) string {
	if r.null() {
		return ""
	}
	start := r.at
	text, plain := r.raw()
	if plain {
		if string(text) != *last {
			*last = string(text)
		}
		return *last
	}
	if r.bad {
		return ""
	}
	r.at = start
	return r.text()
}

func (r *reader) pairsInto(pairs *map[string]string) { *pairs = r.pairs() }

func clonePairs(pairs *map[string]string) map[string]string { return maps.Clone(*pairs) }

// clone shares nothing with the config that can be changed.
func (c *VMConfig) clone() VMConfig {
	clone := *c
	clone.Network.Interfaces = slices.Clone(c.Network.Interfaces)
	clone.Network.DNS = slices.Clone(c.Network.DNS)
	clone.Labels = maps.Clone(c.Labels)
	clone.Annotations = maps.Clone(c.Annotations)
	if c.Affinity != nil {
		affinity := *c.Affinity
		affinity.NodeSelector = maps.Clone(c.Affinity.NodeSelector)
		affinity.RequiredNodes = slices.Clone(c.Affinity.RequiredNodes)
		affinity.PreferredNodes = slices.Clone(c.Affinity.PreferredNodes)
		affinity.AntiAffinityVMs = slices.Clone(c.Affinity.AntiAffinityVMs)
		affinity.RequireSameHost = slices.Clone(c.Affinity.RequireSameHost)
		clone.Affinity = &affinity
	}
	clone.HostDevices = slices.Clone(c.HostDevices)
	clone.CPUPinning = slices.Clone(c.CPUPinning)
	clone.NUMANodes = slices.Clone(c.NUMANodes)
	return clone
}
