// Plots as inline SVG: axes with units, a hover title on every mark, colours from the page's style
// sheet (report/html_page.h), so that they follow its light and dark themes. No scripts.
#pragma once

#include <string>
#include <vector>

namespace d2q {

struct ChartAxes {
  std::string title;
  std::string x_label;  // with its unit
  std::string y_label;
  bool log_y = false;  // values that are not positive are left out
};

struct ChartPoint {
  double x = 0.0;
  double y = 0.0;
  std::string title;  // shown when hovered
};

struct ChartSeries {
  std::string name;
  std::vector<ChartPoint> points;
};

/// Lines with a mark at every point and a legend; `lines` false leaves the marks alone. Values that
/// are not finite are left out; "" when nothing is left.
std::string line_chart(const ChartAxes& axes, const std::vector<ChartSeries>& series,
                       bool lines = true);

struct ChartBar {
  std::string label;
  double value = 0.0;
  std::string text;  // the value as shown beside the bar
};

/// Horizontal bars from zero, one below the other; `axes.y_label` names what they measure.
std::string bar_chart(const ChartAxes& axes, const std::vector<ChartBar>& bars);

/// Round values for ticks: at most `most` of them, inside [low, high]; decades and their halves
/// when `logarithmic`.
std::vector<double> chart_ticks(double low, double high, int most, bool logarithmic);

}  // namespace d2q
